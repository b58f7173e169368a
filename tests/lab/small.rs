//! A small file system that can be filled.

use std::path::{Path, PathBuf};

use super::{run, try_run};

/// A tmpfs, unmounted when dropped. It must be mounted before a [`super::Host`] that should see it starts.
pub struct Small(PathBuf);

impl Small {
    /// Creates the directory and mounts it; `size` is in mount's notation. QEMU's own user has access to images in it.
    pub fn mount(folder: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&folder).expect("cannot create a directory");
        let path = folder.to_str().expect("paths are UTF-8");
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=711"), "tmpfs", path]);
        Small(folder)
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        try_run("umount", &["--lazy".as_ref(), self.0.as_os_str()]);
    }
}
