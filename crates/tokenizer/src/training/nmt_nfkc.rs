//! The character map that sentencepiece calls `nmt_nfkc`, made from the Unicode tables: NFKC, except that spaces and
//! control characters of all kinds become a space or nothing, and the full-width tilde stays.
//!
//! Written as sentencepiece stores it: a double array (as darts-clone has it) from strings to where their replacement
//! is in the text behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokenizers::NormalizedString;

type Rules = BTreeMap<String, String>;

/// What becomes a space.
const SPACES: [char; 14] = [
    '\t', '\n', '\u{C}', '\r', '\u{1680}', '\u{200B}', '\u{200C}', '\u{200E}', '\u{200F}', '\u{2028}',
    '\u{2029}', '\u{2581}', '\u{FEFF}', '\u{FFFD}',
];
const SPACE: char = ' ';
const FULL_WIDTH_TILDE: &str = "\u{FF5E}";

/// The bytes of `precompiled_charsmap`.
pub(super) fn character_map() -> Vec<u8> {
    let mut rules = nfkc_rules();
    rules.extend(SPACES.map(|space| (space.to_string(), " ".to_owned())));
    let control = ('\u{1}'..='\u{8}').chain(['\u{B}']).chain('\u{E}'..='\u{1F}');
    let control = control.chain(['\u{7F}', '\u{8F}', '\u{9F}']);
    rules.extend(control.map(|control| (control.to_string(), String::new())));
    rules.remove(FULL_WIDTH_TILDE);
    double_array(&rules)
}

/// All characters that can have a decomposition, without the ideographs and syllables that have none or a regular one.
fn characters() -> impl Iterator<Item = char> {
    ('\u{A0}'..='\u{33FF}')
        .chain('\u{A640}'..='\u{ABFF}')
        .chain('\u{F900}'..='\u{FFEF}')
        .chain('\u{10000}'..='\u{1FFFF}')
        .chain('\u{2F800}'..='\u{2FA1F}')
}

fn nfkc_rules() -> Rules {
    let nfkc = |text: &str| NormalizedString::from(text).nfkc().get().to_owned();
    let mut rules = Rules::new();
    // The half-width and compatible forms of letters, and the sequences that characters are canonically made of.
    let mut variants: HashMap<char, Vec<char>> = HashMap::new();
    let mut sequences = BTreeSet::new();
    for character in characters() {
        let text = character.to_string();
        let composed = nfkc(&text);
        let mut parts = composed.chars();
        if let (Some(only), None) = (parts.next(), parts.next())
            && is_letter_form(character)
        {
            variants.entry(only).or_default().push(character);
        }
        if composed != text {
            rules.insert(text.clone(), composed);
        }
        let decomposed = NormalizedString::from(text.as_str()).nfd().get().to_owned();
        if decomposed != text {
            sequences.insert(decomposed);
        }
    }
    sequences.extend(syllables().map(|(first, second)| [first, second].into_iter().collect()));
    for sequence in sequences {
        let composed = nfkc(&sequence);
        // A mark that stands alone is composed with nothing.
        if composed == sequence || composed.starts_with(SPACE) {
            continue;
        }
        let mut forms = vec![String::new()];
        for part in sequence.chars() {
            let parts = || variants.get(&part).into_iter().flatten().chain([&part]);
            forms = forms.iter().flat_map(|form| parts().map(move |part| format!("{form}{part}"))).collect();
        }
        rules.extend(forms.into_iter().filter(|form| *form != composed).map(|form| (form, composed.clone())));
    }
    closed_syllables(&mut rules, nfkc);
    rules
}

/// Whether it is another form of a Japanese or Korean letter, of which syllables are composed in practice.
fn is_letter_form(character: char) -> bool {
    matches!(character, '\u{3131}'..='\u{318E}' | '\u{FF66}'..='\u{FFDC}')
}

/// The first two letters of each Korean syllable.
fn syllables() -> impl Iterator<Item = (char, char)> {
    ('\u{1100}'..='\u{1112}').flat_map(|first| ('\u{1161}'..='\u{1175}').map(move |second| (first, second)))
}

/// A third letter closes a syllable: these three are composed at once, since what was composed is not looked at again.
fn closed_syllables(rules: &mut Rules, nfkc: impl Fn(&str) -> String) {
    for (first, second) in syllables() {
        for third in '\u{11A8}'..='\u{11C2}' {
            let letters: String = [first, second, third].into_iter().collect();
            let composed = nfkc(&letters);
            rules.insert(letters, composed);
        }
    }
}

/// A double array whose free places are known.
struct Builder {
    units: Vec<u32>,
    is_taken: Vec<bool>,
    first_free: usize,
    bases: HashSet<usize>,
}

fn double_array(rules: &Rules) -> Vec<u8> {
    let (mut replacements, mut places) = (Vec::new(), HashMap::new());
    let keys: Vec<(&[u8], u32)> = rules
        .iter()
        .map(|(from, to)| {
            let place = *places.entry(to).or_insert_with(|| {
                let place = replacements.len() as u32;
                replacements.extend_from_slice(to.as_bytes());
                replacements.push(0);
                place
            });
            (from.as_bytes(), place)
        })
        .collect();
    // With the base 0 the root would be its own child.
    let bases = HashSet::from([0]);
    let mut builder = Builder { units: vec![0], is_taken: vec![true], first_free: 1, bases };
    builder.place(0, &keys, 0);
    builder.fill();
    let length = 4 * builder.units.len() as u32;
    let units = builder.units.iter().flat_map(|unit| unit.to_le_bytes());
    length.to_le_bytes().into_iter().chain(units).chain(replacements).collect()
}

impl Builder {
    /// Places the children of `node`: keys are sorted and share what is before `depth`.
    fn place(&mut self, node: usize, keys: &[(&[u8], u32)], depth: usize) {
        let label = |(key, _): &(&[u8], u32)| key.get(depth).copied().unwrap_or(0);
        let groups: Vec<&[(&[u8], u32)]> = keys.chunk_by(|one, other| label(one) == label(other)).collect();
        let labels: Vec<usize> = groups.iter().map(|group| usize::from(label(&group[0]))).collect();
        let base = self.free_base(&labels);
        self.units[node] |= ((node ^ base) as u32) << 10;
        for (group, &label) in groups.iter().zip(&labels) {
            // No key has a zero byte: that is the end of one.
            self.units[base ^ label] = if label == 0 { group[0].1 | 1 << 31 } else { label as u32 };
        }
        if labels[0] == 0 {
            self.units[node] |= 1 << 8;
        }
        for (group, label) in groups.into_iter().zip(labels).filter(|(_, label)| *label != 0) {
            self.place(base ^ label, group, depth + 1);
        }
    }

    /// Fills the last block, within which readers look up any byte without asking for the end, and gives free places a
    /// label by which no node leads there: sentencepiece follows every label when it checks a file.
    fn fill(&mut self) {
        const BLOCK: usize = 256;
        self.units.resize(self.units.len().next_multiple_of(BLOCK), 0);
        self.is_taken.resize(self.units.len(), false);
        for start in (0..self.units.len()).step_by(BLOCK) {
            let unused = (start..start + BLOCK).find(|base| !self.bases.contains(base)).unwrap_or(start);
            for place in (start..start + BLOCK).filter(|place| !self.is_taken[*place]) {
                self.units[place] = (place ^ unused) as u32;
            }
        }
    }

    /// Takes places for all labels relative to a base that no other node has.
    fn free_base(&mut self, labels: &[usize]) -> usize {
        let is_free = |builder: &Self, base: usize| {
            let mut places = labels.iter().map(|label| base ^ label);
            !builder.bases.contains(&base)
                && places.all(|place| !builder.is_taken.get(place).is_some_and(|is| *is))
        };
        // Places further back are full but for a few: looking there again and again would take long.
        let start = self.first_free.max(self.units.len().saturating_sub(1024));
        let bases = (start..).map(|place| place ^ labels[0]);
        // Beyond the last unit everything is free, so that there always is one.
        let base = bases.into_iter().find(|&base| is_free(self, base)).unwrap_or_default();
        for place in labels.iter().map(|label| base ^ label) {
            if place >= self.units.len() {
                self.units.resize(place + 1, 0);
                self.is_taken.resize(place + 1, false);
            }
            self.is_taken[place] = true;
        }
        self.bases.insert(base);
        while self.is_taken.get(self.first_free).is_some_and(|is| *is) {
            self.first_free += 1;
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentencepiece::character_map::CharacterMap;
    use crate::sentencepiece::proto::ModelProto;
    use prost::Message;

    #[test]
    fn every_character_becomes_what_sentencepiece_makes_of_it() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/data/tokenizers/chinese-llama-1/chinese_sp.model"
        );
        let Ok(bytes) = fs_err::read(path) else {
            println!("skipped: ../shared/data is not there");
            return;
        };
        let normalizer = ModelProto::decode(bytes.as_slice()).unwrap().normalizer_spec.unwrap();
        assert_eq!(normalizer.name(), "nmt_nfkc");
        let theirs = CharacterMap::parse(normalizer.precompiled_charsmap()).unwrap();
        let ours = CharacterMap::parse(&character_map()).unwrap();
        let differ = |text: &String| ours.longest_match(text) != theirs.longest_match(text);
        let singles = ('\u{1}'..=char::MAX).map(|character| character.to_string());
        // Unicode has more of them now.
        let newer: Vec<String> = singles.filter(differ).collect();
        assert!(newer.len() < 16, "{newer:?}");
        let differ: Vec<String> =
            nfkc_rules().into_keys().filter(|text| differ(text) && !newer.contains(text)).collect();
        assert!(differ.is_empty(), "{} {:?}", differ.len(), &differ[..differ.len().min(20)]);
    }

    #[test]
    fn the_map_is_small_and_found_again() {
        let rules: Rules = [("a", "1"), ("ab", "2"), ("\u{3042}", ""), ("\u{3042}\u{3099}", "1")]
            .map(|(from, to)| (from.to_owned(), to.to_owned()))
            .into();
        let bytes = double_array(&rules);
        let map = CharacterMap::parse(&bytes).unwrap();
        for (from, to) in &rules {
            assert_eq!(map.longest_match(&format!("{from}x")), Some((from.len(), to.as_str())));
        }
        assert_eq!((map.longest_match("b"), map.longest_match("")), (None, None));
    }
}
