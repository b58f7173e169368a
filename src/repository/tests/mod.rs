//! Restore points in repositories, held against Debian's restic.

mod crash;
mod damage;
mod points;
mod scene;
mod together;
