//! Finds the directories of storage pools. Must not read them.

use std::path::PathBuf;

use virt::connect::Connect;
use virt::error::Error as VirtError;
use virt_sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE;

use crate::hypervisor::Error;

/// The directories of active pools whose volumes are files. None if libvirt has no storage driver.
pub(super) fn folders(connection: &Connect) -> Result<Vec<PathBuf>, Error> {
    let Ok(pools) = connection.list_all_storage_pools(VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE) else {
        return Ok(Vec::new());
    };
    // Skip pools that were removed after they were listed.
    let texts: Vec<String> = pools.iter().map(|pool| pool.xml_desc(0)).filter_map(Result::<_, VirtError>::ok).collect();
    Ok(texts.iter().filter_map(|xml| folder(xml)).collect())
}

/// The directory in a pool's definition: <https://libvirt.org/formatstorage.html>. Volumes of other kinds of pools are devices
/// or network storage.
fn folder(xml: &str) -> Option<PathBuf> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let pool = document.root_element();
    let is_folder = matches!(pool.attribute("type"), Some("dir" | "fs" | "netfs"));
    let child = |of: roxmltree::Node<'_, '_>, name: &str| {
        of.children().find(|node| node.has_tag_name(name)).map(|node| node.id())
    };
    let target = document.get_node(child(pool, "target")?)?;
    let path = document.get_node(child(target, "path")?)?.text()?;
    is_folder.then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_based_pools_have_a_directory() {
        let pool = |kind: &str| {
            folder(&format!("<pool type='{kind}'><name>a</name><target><path>/srv/a b</path></target></pool>"))
        };
        assert_eq!(["dir", "fs", "netfs"].map(pool), [(); 3].map(|()| Some("/srv/a b".into())));
        assert_eq!(["logical", "disk", "iscsi"].map(pool), [None, None, None]);
        assert_eq!(folder("<pool type='dir'/>"), None);
    }
}
