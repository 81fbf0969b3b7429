//! A grammar as a pushdown automaton over bytes, made into a finite one while it is used: each set of stacks that is met becomes
//! a state, its steps and its mask are remembered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::grammar::{Grammar, Rules, Symbol};
use super::vocabulary::Vocabulary;

/// The state of texts that no text of the grammar begins with.
pub(super) const DEAD: u32 = 0;
/// A step that was not taken yet.
const UNKNOWN: u32 = u32::MAX;
/// The stack under the first frame.
const BOTTOM: u32 = u32::MAX;
/// Stacks of a state at most. A grammar that needs more reads the same text in too many ways.
const MOST_STACKS: usize = 20_000;
/// Remembered tables of steps, of 1 KiB each, and bytes of remembered masks, before they are forgotten.
const MOST_TABLES: usize = 32_768;
const MOST_MASK_BYTES: usize = 64 << 20;

/// States, as far as they were met.
#[derive(Debug)]
pub(super) struct Automaton {
    rules: Arc<Rules>,
    /// Where a stack goes on, and the stack below. A stack is its uppermost frame; equal stacks are one.
    frames: Vec<(u32, u32)>,
    frame_ids: HashMap<(u32, u32), u32>,
    states: Vec<State>,
    state_ids: HashMap<(Box<[u32]>, bool), u32>,
    tables: usize,
    mask_bytes: usize,
}

#[derive(Debug)]
struct State {
    /// Stacks whose uppermost frame stands before a byte, in order.
    stacks: Box<[u32]>,
    /// Whether the text may end.
    may_end: bool,
    next: Option<Box<[u32; 256]>>,
    mask: Option<Arc<Mask>>,
}

/// Tokens of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    bits: Vec<u64>,
    count: usize,
}

impl Mask {
    /// Whether the token is one of them.
    pub fn contains(&self, id: u32) -> bool {
        self.bits.get(id as usize / 64).is_some_and(|bits| bits >> (id % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The first of them.
    pub fn first(&self) -> Option<u32> {
        let place = self.bits.iter().position(|bits| *bits != 0)?;
        Some(place as u32 * 64 + self.bits[place].trailing_zeros())
    }
}

impl Automaton {
    pub(super) fn new(grammar: &Grammar) -> Self {
        let mut automaton = Self {
            rules: Arc::clone(&grammar.rules),
            frames: Vec::new(),
            frame_ids: HashMap::new(),
            states: Vec::new(),
            state_ids: HashMap::new(),
            tables: 0,
            mask_bytes: 0,
        };
        automaton.state(Stacks::default());
        automaton
    }

    /// The state of the empty text.
    pub(super) fn start(&mut self) -> u32 {
        let mut stacks = Stacks::default();
        let starts = self.rules.starts[self.rules.root as usize].clone();
        starts.into_iter().for_each(|start| self.reach(start, BOTTOM, &mut stacks));
        self.state(stacks)
    }

    pub(super) fn may_end(&self, state: u32) -> bool {
        self.states[state as usize].may_end
    }

    /// The state behind a byte.
    pub(super) fn step(&mut self, state: u32, byte: u8) -> u32 {
        let known = self.states[state as usize].next.as_ref().map_or(UNKNOWN, |next| next[usize::from(byte)]);
        if known != UNKNOWN {
            return known;
        }
        let next = self.find_step(state, byte);
        if self.states[state as usize].next.is_none() {
            if self.tables == MOST_TABLES {
                self.states.iter_mut().for_each(|state| state.next = None);
                self.tables = 0;
            }
            self.tables += 1;
        }
        let table = &mut self.states[state as usize].next;
        table.get_or_insert_with(|| Box::new([UNKNOWN; 256]))[usize::from(byte)] = next;
        next
    }

    fn find_step(&mut self, state: u32, byte: u8) -> u32 {
        let mut stacks = Stacks::default();
        for place in 0..self.states[state as usize].stacks.len() {
            let (position, below) = self.frames[self.states[state as usize].stacks[place] as usize];
            if let Symbol::Byte(set) = self.rules.symbols[position as usize]
                && self.rules.sets[set as usize].contains(byte)
            {
                self.reach(position + 1, below, &mut stacks);
            }
        }
        self.state(stacks)
    }

    /// Adds every stack that stands before a byte once `position` is reached above the stack `below`.
    fn reach(&mut self, position: u32, below: u32, stacks: &mut Stacks) {
        let mut waiting = vec![(position, below)];
        while let Some((position, below)) = waiting.pop() {
            if stacks.met.len() > MOST_STACKS || !stacks.met.insert((position, below)) {
                continue;
            }
            match self.rules.symbols[position as usize] {
                Symbol::Byte(_) => stacks.all.push(self.frame(position, below)),
                Symbol::End if below == BOTTOM => stacks.may_end = true,
                Symbol::End => waiting.push(self.frames[below as usize]),
                Symbol::Rule(rule) => {
                    // A call that stands last leaves nothing to come back to.
                    let back = match self.rules.symbols[position as usize + 1] {
                        Symbol::End => below,
                        _ => self.frame(position + 1, below),
                    };
                    waiting.extend(self.rules.starts[rule as usize].iter().map(|start| (*start, back)));
                }
            }
        }
    }

    fn frame(&mut self, position: u32, below: u32) -> u32 {
        let frames = &mut self.frames;
        *self.frame_ids.entry((position, below)).or_insert_with(|| {
            frames.push((position, below));
            frames.len() as u32 - 1
        })
    }

    fn state(&mut self, stacks: Stacks) -> u32 {
        if stacks.met.len() > MOST_STACKS {
            return DEAD;
        }
        let Stacks { mut all, may_end, .. } = stacks;
        all.sort_unstable();
        let key = (all.into_boxed_slice(), may_end);
        if let Some(state) = self.state_ids.get(&key) {
            return *state;
        }
        let id = self.states.len() as u32;
        self.states.push(State { stacks: key.0.clone(), may_end, next: None, mask: None });
        self.state_ids.insert(key, id);
        id
    }

    /// The tokens that may come next.
    pub(super) fn mask(&mut self, state: u32, vocabulary: &Vocabulary) -> Arc<Mask> {
        if let Some(mask) = &self.states[state as usize].mask {
            return Arc::clone(mask);
        }
        let mask = Arc::new(self.find_mask(state, vocabulary));
        self.mask_bytes += 8 * mask.bits.len();
        if self.mask_bytes > MOST_MASK_BYTES {
            self.states.iter_mut().for_each(|state| state.mask = None);
            self.mask_bytes = 8 * mask.bits.len();
        }
        self.states[state as usize].mask = Some(Arc::clone(&mask));
        mask
    }

    /// Walks the trie once, and passes by what no text of the grammar begins with.
    fn find_mask(&mut self, state: u32, vocabulary: &Vocabulary) -> Mask {
        let mut mask = Mask { bits: vec![0; vocabulary.len().div_ceil(64)], count: 0 };
        // The state behind each byte of the way to a node.
        let mut path = vec![state];
        let nodes = vocabulary.nodes();
        let mut place = 0;
        while let Some(node) = nodes.get(place) {
            path.truncate(node.depth as usize);
            let next = self.step(path[path.len() - 1], node.byte);
            if next == DEAD {
                place = node.end as usize;
                continue;
            }
            path.push(next);
            for &id in vocabulary.ids_of(node) {
                mask.bits[id as usize / 64] |= 1 << (id % 64);
                mask.count += 1;
            }
            place += 1;
        }
        mask
    }
}

/// Stacks while a state is put together.
#[derive(Default)]
struct Stacks {
    all: Vec<u32>,
    may_end: bool,
    met: HashSet<(u32, u32)>,
}
