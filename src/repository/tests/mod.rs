//! Tests restore points in repositories with Debian's restic.

mod crash;
mod damage;
mod locks;
mod maintained;
mod meddled;
mod points;
mod random;
mod sample;
mod scene;
mod together;
