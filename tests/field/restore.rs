//! Faults reported by operators: what a restore may write, and how the restored guest starts.
