//! Faults reported by operators: the guest during a backup and on its way back to its own images.
