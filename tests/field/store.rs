//! Faults reported by operators: the target, its folders and retention.
