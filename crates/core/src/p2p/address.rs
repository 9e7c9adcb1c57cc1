//! Names of functions and of root buses, as the kernel writes them.

use std::fmt;

/// A PCI function: domain, bus, device and function number. Written as the kernel does: `0000:3b:00.1`, in domains above 16 bits
/// with as many digits as it takes (`10000:e1:00.0`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    slot: u8,
}

impl PciAddress {
    /// This function, `None` when a device number is above 31 or a function number above 7.
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self { domain, bus, slot: device << 3 | function })
        } else {
            None
        }
    }

    /// Reads the name that the kernel writes; `None` for any other text, also for another spelling of the same number.
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, function) = name.split_once('.')?;
        let mut parts = rest.split(':');
        let (domain, bus, device) = (parts.next()?, parts.next()?, parts.next()?);
        let [domain, bus, device, function] = [domain, bus, device, function].map(hex);
        let [bus, device, function] = [bus?, device?, function?].map(|n| u8::try_from(n).ok());
        let address = Self::new(domain?, bus?, device?, function?)?;
        (parts.next().is_none() && address.to_string() == name).then_some(address)
    }

    /// The domain (segment).
    pub const fn domain(self) -> u32 {
        self.domain
    }

    /// The bus number.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device and function number in one, as configuration space counts them: 0 is `00.0`.
    pub const fn devfn(self) -> u8 {
        self.slot
    }
}

/// A number in hexadecimal digits and nothing else (`u32::from_str_radix` takes a sign).
fn hex(digits: &str) -> Option<u32> {
    let digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)?;
    u32::from_str_radix(digits, 16).ok()
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, slot } = self;
        write!(f, "{domain:04x}:{bus:02x}:{:02x}.{}", slot >> 3, slot & 7)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bus below a host bridge, where every path ends. Two functions are below the same host bridge exactly when these are equal.
/// Written as the kernel does: `pci0000:00`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootBus {
    domain: u32,
    bus: u8,
}

impl RootBus {
    /// Reads the name that the kernel writes; `None` for any other text.
    pub fn parse(name: &str) -> Option<Self> {
        let (domain, bus) = name.strip_prefix("pci")?.split_once(':')?;
        let root = Self { domain: hex(domain)?, bus: u8::try_from(hex(bus)?).ok()? };
        (root.to_string() == name).then_some(root)
    }
}

impl fmt::Display for RootBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pci{:04x}:{:02x}", self.domain, self.bus)
    }
}

impl fmt::Debug for RootBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q6_addresses_are_read_as_the_kernel_writes_them_and_in_no_other_way() {
        for name in ["0000:00:00.0", "0001:ff:1f.7", "10000:e1:00.0", "ffffffff:00:01.2"] {
            assert_eq!(PciAddress::parse(name).unwrap().to_string(), name);
        }
        let address = PciAddress::parse("10000:e1:1f.7").unwrap();
        assert_eq!((address.domain(), address.bus(), address.devfn()), (0x10000, 0xe1, 0xff));
        let wrong = "0000:00:00.8 0000:00:20.0 00000:00:00.0 0000:00:00 0000:0:00.0 0000:00:0A.0 \
            +000:00:00.0 000g:00:00.0 100000000:00:00.0 0000:00:00.0:1 0000:00:00:00.0 : .";
        for name in wrong.split(' ').chain([""]) {
            assert_eq!(PciAddress::parse(name), None, "{name}");
        }
        assert_eq!(PciAddress::new(0, 0, 32, 0), None);
        assert_eq!(RootBus::parse("pci10000:e0").unwrap().to_string(), "pci10000:e0");
        for name in ["pci0000", "pci0000:0", "0000:00", "pci0000:00:00", "pci0000:100", "pci:"] {
            assert_eq!(RootBus::parse(name), None, "{name}");
        }
    }
}
