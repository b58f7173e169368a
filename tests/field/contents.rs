//! Faults reported by operators: what a restore point holds, and what it says that it does not hold.
