//! The bytes of every token, as a trie that is walked once to find the tokens that a constraint allows. Knows no tokenizer.

/// Bytes of tokens.
#[derive(Debug)]
pub struct Vocabulary {
    tokens: Vec<Vec<u8>>,
    /// In preorder, so that walking on is reading on.
    nodes: Vec<Node>,
    /// Ids in the order of their bytes; those of a node stand together.
    ids: Vec<u32>,
}

/// A beginning of tokens that is one byte longer than its parent's.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) byte: u8,
    /// Bytes up to here.
    pub(super) depth: u32,
    /// The first node that does not begin with this one.
    pub(super) end: u32,
    /// The tokens that are these bytes, in `ids`.
    first_id: u32,
    end_id: u32,
}

impl Vocabulary {
    /// The token of id 0 first. Tokens without bytes (special ones, rows that only pad an embedding) are never allowed.
    pub fn new(tokens: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let tokens: Vec<Vec<u8>> = tokens.into_iter().collect();
        let mut ids: Vec<u32> =
            (0..tokens.len() as u32).filter(|id| !tokens[*id as usize].is_empty()).collect();
        ids.sort_by(|a, b| tokens[*a as usize].cmp(&tokens[*b as usize]));
        let mut nodes: Vec<Node> = Vec::new();
        // The nodes of the newest token, the root's child first.
        let mut path: Vec<usize> = Vec::new();
        let mut before: &[u8] = &[];
        for (place, &id) in ids.iter().enumerate() {
            let bytes = &tokens[id as usize];
            let common = before.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            for node in path.drain(common..) {
                nodes[node].end = nodes.len() as u32;
            }
            for (depth, &byte) in bytes.iter().enumerate().skip(common) {
                path.push(nodes.len());
                let (depth, place) = (depth as u32 + 1, place as u32);
                nodes.push(Node { byte, depth, end: 0, first_id: place, end_id: place });
            }
            if let Some(&node) = path.last() {
                nodes[node].end_id = place as u32 + 1;
            }
            before = bytes;
        }
        for node in path {
            nodes[node].end = nodes.len() as u32;
        }
        Self { tokens, nodes, ids }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The bytes of a token; empty where it has none.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.tokens.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// The tokens that have one of the texts in them.
    pub fn tokens_with(&self, texts: &[String]) -> Vec<u32> {
        let has = |bytes: &[u8]| {
            texts.iter().any(|text| bytes.windows(text.len().max(1)).any(|part| part == text.as_bytes()))
        };
        (0..self.tokens.len() as u32).filter(|id| has(self.bytes(*id))).collect()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn ids_of(&self, node: &Node) -> &[u32] {
        &self.ids[node.first_id as usize..node.end_id as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trie_spells_every_token_once() {
        let tokens: Vec<Vec<u8>> = ["ab", "", "a", "abc", "b", "a", "中", "中国"]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect();
        let vocabulary = Vocabulary::new(tokens.clone());
        let mut path = Vec::new();
        let mut met = Vec::new();
        for (place, node) in vocabulary.nodes().iter().enumerate() {
            path.truncate(node.depth as usize - 1);
            path.push(node.byte);
            assert!(node.end as usize > place);
            for &id in vocabulary.ids_of(node) {
                assert_eq!(path, tokens[id as usize]);
                met.push(id);
            }
        }
        met.sort_unstable();
        assert_eq!(met, [0, 2, 3, 4, 5, 6, 7]);
        assert_eq!(vocabulary.tokens_with(&["b".into(), "国".into()]), [0, 3, 4, 7]);
    }
}
