//! PCI devices without an IOMMU in front of them. Runs wherever there is one, as in the lab's machine whose kernel leaves its IOMMU alone.

use std::{fs, io::ErrorKind};

use hmmap_vfio::{VfioDomain, VfioError};

#[test]
fn a_device_without_an_iommu_group_is_refused_by_its_name() {
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let alone = devices.filter(|device| !device.path().join("iommu_group").exists());
    let names: Vec<_> = alone.filter_map(|device| device.file_name().into_string().ok()).collect();
    if names.is_empty() {
        println!("HMMAP-SKIP: every PCI device here has an IOMMU group, or there is none");
        return;
    }
    for name in &names {
        let VfioError::NoGroup { device, source } = VfioDomain::open(&[name]).unwrap_err() else {
            panic!("{name}")
        };
        assert_eq!((&device, source.kind()), (name, ErrorKind::NotFound));
    }
    println!("HMMAP-COUNT: {} devices without a group refused", names.len());
}
