//! Which kernel modules the machine needs, in which order: each says in itself what it needs.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What the machine loads, beside what these need. What a kernel has built in, or has not, is left out.
pub(super) const MODULES: [&str; 6] =
    ["virtio_pci", "9pnet_virtio", "9p", "vfio_iommu_type1", "vfio-pci", "vgem"];

/// A kernel's modules, by name.
#[derive(Debug)]
pub(super) struct Tree(HashMap<String, PathBuf>);

impl Tree {
    /// All modules below `dir`.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut found = HashMap::new();
        let mut open = vec![dir.to_path_buf()];
        while let Some(dir) = open.pop() {
            let entries =
                dir.read_dir().with_context(|| format!("cannot read {}", dir.display()))?;
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    open.push(path);
                } else if let Some(name) = name_of(&path) {
                    found.insert(name, path);
                }
            }
        }
        Ok(Self(found))
    }

    /// Puts the wanted ones, and what they need, into `to` by `unpack`, and gives their file names in the order in which they are loaded.
    pub(super) fn gather(
        &self,
        wanted: &[&str],
        to: &Path,
        unpack: impl Fn(&Path, &Path) -> Result<()>,
    ) -> Result<Vec<String>> {
        let mut order: Vec<String> = Vec::new();
        // What is met a second time was waiting for what it needs.
        let mut open: Vec<(String, bool)> =
            wanted.iter().rev().map(|name| (same(name), false)).collect();
        while let Some((name, has_all)) = open.pop() {
            let file = format!("{name}.ko");
            let Some(path) = self.0.get(&name).filter(|_| !order.contains(&file)) else { continue };
            if has_all {
                order.push(file);
                continue;
            }
            unpack(path, &to.join(&file))?;
            open.push((name, true));
            open.extend(needs(&fs::read(to.join(&file))?).into_iter().map(|name| (name, false)));
        }
        Ok(order)
    }
}

/// A module's name is written with either.
fn same(name: &str) -> String {
    name.replace('-', "_")
}

/// `vfio_pci` of `vfio-pci.ko.xz`.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".ko.xz").or_else(|| name.strip_suffix(".ko")).map(same)
}

/// The names in a module's own line `depends=a,b`, which ends with a zero.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let line = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.split(',').filter(|name| !name.is_empty()).map(same).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from/deep"), home.path().join("to"));
        fs::create_dir_all(&from).unwrap();
        fs::create_dir_all(&to).unwrap();
        let module = |name: &str, needs: &str| {
            fs::write(from.join(name), format!("\x7fELF\0license=GPL\0depends={needs}\0x"))
                .unwrap();
        };
        module("vfio-pci.ko", "vfio-pci-core,vfio");
        module("vfio-pci-core.ko", "vfio,irqbypass");
        module("vfio.ko", "");
        module("9p.ko", "vfio");
        let tree = Tree::read(&home.path().join("from")).unwrap();
        let copy = |from: &Path, to: &Path| Ok(fs::copy(from, to).map(drop)?);
        let order = tree.gather(&["9p", "not_there", "vfio-pci"], &to, copy).unwrap();
        assert_eq!(order, ["vfio.ko", "9p.ko", "vfio_pci_core.ko", "vfio_pci.ko"]);
        assert!(order.iter().all(|file| to.join(file).is_file()));
    }
}
