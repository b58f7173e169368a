//! Faults reported by operators: hosts as distributions set them up.
