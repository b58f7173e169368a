//! Owns: running hooks in a guest. Must not: nothing yet.
