//! Folders and files that are there whole or not at all, also on a disk that is really full.

use std::path::Path;
use std::process::Command;

use danlu_formats::{AtomicFolder, Error, write_file_atomically};
use fs_err as fs;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_appears_with_commit_and_replaces_the_old_one_whole() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("runs/model");
    for content in ["first", "second"] {
        let folder = AtomicFolder::create(&path).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub").join(content), content).unwrap();
        assert_eq!(path.exists(), content == "second");
        folder.commit().unwrap();
        assert_eq!(names(&path.join("sub")), [content]);
        assert_eq!(names(path.parent().unwrap()), ["model"]);
    }
    drop(AtomicFolder::create(&path).unwrap());
    assert_eq!(names(path.parent().unwrap()), ["model"]);
    assert_eq!(names(&path.join("sub")), ["second"]);
}

#[test]
fn links_are_followed_and_wrong_kinds_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::create_dir(path("real")).unwrap();
    std::os::unix::fs::symlink(path("real"), path("link")).unwrap();
    let folder = AtomicFolder::create(path("link")).unwrap();
    fs::write(folder.path().join("x"), "x").unwrap();
    folder.commit().unwrap();
    assert!(path("link").is_symlink());
    assert_eq!(names(&path("real")), ["x"]);

    write_file_atomically(path("file"), b"1").unwrap();
    write_file_atomically(path("file"), b"2").unwrap();
    assert_eq!(fs::read(path("file")).unwrap(), b"2");
    assert!(matches!(AtomicFolder::create(path("file")), Err(Error::WrongKind { .. })));
    assert!(matches!(write_file_atomically(path("real"), b""), Err(Error::WrongKind { .. })));
    assert!(matches!(write_file_atomically("/dev/null", b""), Err(Error::WrongKind { .. })));
    assert!(matches!(write_file_atomically("/", b""), Err(Error::WrongKind { .. })));
    let message = write_file_atomically(path("no/file"), b"").unwrap_err().to_string();
    let (file, folder) = (path("no/file"), path("no"));
    assert_eq!(
        message,
        format!(
            "cannot write `{}`: there is no folder `{}`; create it first",
            file.display(),
            folder.display()
        )
    );
    assert_eq!(names(root.path()), ["file", "link", "real"]);
}

const CHILD: &str = "DANLU_TEST_FOLDER";

/// Runs only as the child of the tests below: saves once, then again with more than fits, inside `$DANLU_TEST_FOLDER`.
#[test]
fn child_that_saves_too_much() {
    let Ok(root) = std::env::var(CHILD) else { return };
    let root = Path::new(&root);
    let save = |byte: u8, length: usize| -> Result<(), Error> {
        write_file_atomically(root.join("state.json"), &vec![byte; length])?;
        let folder = AtomicFolder::create(root.join("checkpoint"))?;
        write_file_atomically(folder.path().join("weights"), &vec![byte; length])?;
        folder.commit()
    };
    save(1, 1000).unwrap();
    println!("error: {}", save(2, 10_000_000).unwrap_err());

    let folder = AtomicFolder::create(root.join("checkpoint")).unwrap();
    let error = write_file_atomically(folder.path().join("weights"), &vec![2; 10_000_000]).unwrap_err();
    println!("error: {error}");
    drop(folder);
    assert_eq!(fs::read(root.join("state.json")).unwrap(), [1; 1000]);
    assert_eq!(fs::read(root.join("checkpoint/weights")).unwrap(), [1; 1000]);
    assert_eq!(names(root), ["checkpoint", "state.json"]);
}

/// Runs the child after `setup` in a shell; its output, or `None` if the setup is not possible here.
fn run_child(root: &Path, shell: &[&str], setup: &str) -> Option<String> {
    let test = std::env::current_exe().unwrap();
    let script =
        format!("{setup} || exit 77; exec \"$0\" --exact atomic::child_that_saves_too_much --nocapture");
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .args(["-c", &script])
        .arg(test)
        .env(CHILD, root)
        .output()
        .ok()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || text.contains("unshare") {
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(text)
}

#[test]
fn axolotl_2548_a_full_disk_is_said_and_the_previous_checkpoint_stays() {
    let root = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=1m none '{}'", root.path().display());
    let Some(text) = run_child(root.path(), &["unshare", "-rm", "sh"], &mount) else {
        println!("skipped: a small file system cannot be mounted here");
        return;
    };
    assert!(text.contains("state.json`: the disk is full; what was there before is unchanged"), "{text}");
    assert!(text.contains("weights`: the disk is full"), "{text}");
}

#[test]
fn a_write_that_fails_half_way_leaves_the_previous_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    // At most 1 MB in one file; without the trap the signal would end the child instead of an error.
    let text = run_child(root.path(), &["sh"], "trap '' XFSZ; ulimit -f 2000").unwrap();
    assert!(text.contains("error: ") && text.contains("state.json"), "{text}");
}

const ENDLESS: &str = "DANLU_TEST_ENDLESS";

/// Runs only as the child of the test below: replaces a folder of two files that agree, until it is killed.
#[test]
fn child_that_saves_for_ever() {
    let Ok(path) = std::env::var(ENDLESS) else { return };
    for number in 0u64.. {
        let folder = AtomicFolder::create(&path).unwrap();
        for name in ["weights", "optimizer"] {
            fs::write(folder.path().join(name), number.to_string()).unwrap();
        }
        folder.commit().unwrap();
    }
}

#[test]
fn a_kill_at_any_time_leaves_a_whole_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("checkpoint");
    for kill in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "atomic::child_that_saves_for_ever"])
            .env(ENDLESS, &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !path.exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(20_000 + 1_371 * kill));
        child.kill().unwrap();
        child.wait().unwrap();

        AtomicFolder::recover(&path).unwrap();
        let read = |name| fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(read("weights"), read("optimizer"));
    }
    drop(AtomicFolder::create(&path).unwrap());
    assert_eq!(names(root.path()), ["checkpoint"], "leftovers are gone");
}
