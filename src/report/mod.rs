//! Owns: (filled by its author).
