//! A small file system, which can be filled.

use std::path::{Path, PathBuf};

use super::{run, try_run};

/// A tmpfs, unmounted when dropped. It must be mounted before a [`super::Host`] that should have it starts.
pub struct Small(PathBuf);

impl Small {
    /// Makes the folder and mounts it; `size` is in mount's words. QEMU's own user may look for images in it.
    pub fn mount(folder: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&folder).expect("cannot make a folder");
        let path = folder.to_str().expect("paths are UTF-8");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=711"), "tmpfs", path]);
        Small(folder)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        try_run("umount", &["--lazy".as_ref(), self.0.as_os_str()]);
    }
}
