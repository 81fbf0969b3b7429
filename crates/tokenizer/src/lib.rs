//! Text and ids.
