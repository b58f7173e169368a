//! Tests restore points in repositories with Debian's restic.

mod crash;
mod damage;
mod points;
mod random;
mod sample;
mod scene;
mod together;
