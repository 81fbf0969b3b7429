//! The kernels' own threads.
//!
//! A parallel region hands out task numbers; the caller works too. Idle workers spin for about 50 µs, because the
//! next region usually follows at once, and then sleep. Who runs a task never changes its result.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

const SPIN: Duration = Duration::from_micros(50);

static REQUESTED: AtomicUsize = AtomicUsize::new(0);
static TEAM: OnceLock<Team> = OnceLock::new();

/// Sets the number of threads, before the first parallel region. The first call counts; returns whether it was this one.
pub fn set_threads(threads: usize) -> bool {
    let first = REQUESTED.compare_exchange(0, threads, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    first && TEAM.get().is_none()
}

/// The number of threads that parallel regions use.
pub fn threads() -> usize {
    team().workers + 1
}

/// Runs `task(0) … task(tasks - 1)`, each once, on the team, and returns when all are done.
///
/// A region inside a region, or beside another thread's region, runs on its caller alone.
pub fn parallel_for(tasks: usize, task: impl Fn(usize) + Sync) {
    let team = team();
    let region = match team.region.try_lock() {
        _ if tasks <= 1 || team.workers == 0 => None,
        Ok(region) => Some(region),
        // A task that panicked left nothing behind.
        Err(TryLockError::Poisoned(region)) => Some(region.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    match region {
        None => (0..tasks).for_each(task),
        Some(_region) => team.run(tasks, &task),
    }
}

/// [`parallel_for`] over consecutive pieces of `items`, `piece` elements each (the last may be shorter).
pub fn parallel_chunks<T: Send>(items: &mut [T], piece: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    let shared = SharedSlice::new(items);
    parallel_for(shared.len().div_ceil(piece), |index| {
        let start = index * piece;
        // SAFETY: pieces of different task numbers do not overlap.
        task(index, unsafe { shared.range(start, piece.min(shared.len() - start)) })
    });
}

/// A mutable slice that tasks share, each touching its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    length: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `range`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(items: &'a mut [T]) -> Self {
        Self { start: items.as_mut_ptr(), length: items.len(), lifetime: std::marker::PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The elements `start .. start + length`.
    ///
    /// # Safety
    /// No two ranges that are alive at once may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, length: usize) -> &'a mut [T] {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: within the slice by the assertion; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// The address of element `start`, for kernels that write rows of a tile.
    pub(crate) fn pointer(&self, start: usize) -> *mut T {
        assert!(start <= self.length);
        // SAFETY: within or one past the slice by the assertion.
        unsafe { self.start.add(start) }
    }
}

struct Team {
    workers: usize,
    region: Mutex<()>,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: the task outlives the region, which ends only after every worker has left it.
unsafe impl Send for Job {}

struct Shared {
    /// Number of the current region; workers wait for it to change.
    region_number: AtomicUsize,
    job: Mutex<Option<Job>>,
    next_task: AtomicUsize,
    working: AtomicUsize,
    panicked: AtomicBool,
    sleepers: Mutex<usize>,
    wake: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn team() -> &'static Team {
    TEAM.get_or_init(|| {
        let available = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let threads = match REQUESTED.load(Ordering::Relaxed) {
            0 => crate::cpu::cores(),
            requested => requested,
        };
        let shared = Arc::new(Shared {
            region_number: AtomicUsize::new(0),
            job: Mutex::new(None),
            next_task: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        // More threads than cores only steal each other's time while they spin.
        let spin = if threads > available { Duration::ZERO } else { SPIN };
        let mut workers = 0;
        for number in 1..threads {
            let shared = Arc::clone(&shared);
            let name = format!("kernel-{number}");
            // A system that grants fewer threads still gives the same results.
            if std::thread::Builder::new().name(name).spawn(move || work(&shared, spin)).is_err() {
                break;
            }
            workers += 1;
        }
        Team { workers, region: Mutex::new(()), shared }
    })
}

impl Team {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; this function waits for all workers before it returns.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        *lock(&shared.job) = Some(Job { task, tasks });
        shared.next_task.store(0, Ordering::Relaxed);
        shared.working.store(self.workers, Ordering::Relaxed);
        shared.region_number.fetch_add(1, Ordering::Release);
        if *lock(&shared.sleepers) > 0 {
            shared.wake.notify_all();
        }
        let own = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.take_tasks(task, tasks)));
        let start = Instant::now();
        while shared.working.load(Ordering::Acquire) > 0 {
            // A worker that takes this long may be waiting for this very core.
            if start.elapsed() < SPIN { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        match own {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => assert!(!panicked, "a kernel task panicked on another thread"),
        }
    }
}

impl Shared {
    fn take_tasks(&self, task: &(dyn Fn(usize) + Sync), tasks: usize) {
        loop {
            let number = self.next_task.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                return;
            }
            task(number);
        }
    }

    fn wait_for_region(&self, seen: usize, spin: Duration) -> usize {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                let number = self.region_number.load(Ordering::Acquire);
                if number != seen {
                    return number;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= spin {
                break;
            }
        }
        let mut sleepers = lock(&self.sleepers);
        *sleepers += 1;
        while self.region_number.load(Ordering::Acquire) == seen {
            sleepers = self.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
        }
        *sleepers -= 1;
        self.region_number.load(Ordering::Acquire)
    }
}

fn work(shared: &Shared, spin: Duration) {
    let mut seen = 0;
    loop {
        seen = shared.wait_for_region(seen, spin);
        let job = *lock(&shared.job);
        if let Some(job) = job {
            // SAFETY: the region's caller keeps the task alive until `working` reaches zero.
            let task = unsafe { &*job.task };
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.take_tasks(task, job.tasks)));
            if result.is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.working.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 3, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            parallel_for(tasks, |task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn regions_follow_each_other_and_nest() {
        let sum = AtomicUsize::new(0);
        for _ in 0..2000 {
            parallel_for(3, |_| parallel_for(2, |_| _ = sum.fetch_add(1, Ordering::Relaxed)));
        }
        assert_eq!(sum.load(Ordering::Relaxed), 12_000);
    }

    #[test]
    fn a_sleeping_team_wakes_up() {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_micros(300));
            let sum = AtomicUsize::new(0);
            parallel_for(64, |task| _ = sum.fetch_add(task, Ordering::Relaxed));
            assert_eq!(sum.load(Ordering::Relaxed), 2016);
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller() {
        let result = std::panic::catch_unwind(|| parallel_for(8, |task| assert_ne!(task, 5)));
        assert!(result.is_err());
        parallel_for(8, |_| ());
    }
}
