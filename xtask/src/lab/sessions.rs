//! Which tests run under which kernel.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::runner::Depth;
use crate::runner::plan::Binary;

/// Which of the machine's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    /// 6.12 or newer.
    Newest,
    /// 6.1, as Debian 12 has it: userfaultfd without CONTINUE_MODE_WP and POISON.
    Stock,
}

/// What the kernel does with the machine's IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Iommu {
    Used,
    /// Its devices have no groups.
    LeftAlone,
}

/// One boot.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) name: &'static str,
    pub(super) series: Series,
    pub(super) iommu: Iommu,
    programs: &'static [Program],
}

/// A test program, by its package and its name.
#[derive(Debug)]
struct Program {
    package: &'static str,
    target: &'static str,
    /// Tests with one of these words in their name; all, if there are none.
    words: &'static [&'static str],
    when: When,
    size: Size,
}

/// How much a program does that does more in a deep run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// What the run says.
    OfRun,
    /// As little as in an ordinary run: all of it takes hours on an emulated processor.
    Small,
}

/// A program of a session, and what of it is run.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    pub(super) binary: &'a Binary,
    /// Words that choose among its tests.
    pub(super) words: Vec<&'a str>,
    pub(super) size: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// In the ordinary run alone.
    Usual,
    /// In the deep run alone.
    Deep,
}

impl Program {
    fn is_for(&self, depth: Depth) -> bool {
        match self.when {
            When::Always => true,
            When::Usual => depth == Depth::Usual,
            When::Deep => depth == Depth::Deep,
        }
    }
}

const fn always(package: &'static str, target: &'static str) -> Program {
    Program { package, target, words: &[], when: When::Always, size: Size::OfRun }
}

/// A part of the conformance suite, in all its modes.
const fn suite(target: &'static str) -> Program {
    Program { when: When::Deep, size: Size::Small, ..always("hmmap-conformance", target) }
}

/// The tests of page faults that say most of a rung, in the minutes that an ordinary run has.
const OF_THE_RUNG: [&str; 8] = [
    "bounce::",
    "edges::",
    "peers_of_the_process::",
    "renewal::",
    "sigbus::",
    "strangers::",
    "system_calls::",
    "touches::",
];

/// All of them.
pub(super) const SESSIONS: [Session; 4] = [
    Session {
        name: "devices",
        series: Series::Newest,
        iommu: Iommu::Used,
        programs: &[
            always("hmmap-vfio", "lab"),
            always("hmmap-core", "dma_buf"),
            Program { words: &["a_dma_buf"], ..always("hmmap-core", "shared_memory") },
            Program { words: &["dma_buf"], ..always("hmmap-share", "processes") },
            always("hmmap", "lab_vulkan"),
            always("hmmap-vulkan", "driver_external"),
            always("hmmap-vulkan", "driver_dma_buf"),
            Program {
                words: &["embedded_own_node_blocks_index::"],
                when: When::Usual,
                ..always("hmmap-conformance", "embedded")
            },
        ],
    },
    Session {
        name: "stock",
        series: Series::Stock,
        iommu: Iommu::LeftAlone,
        programs: &[
            always("hmmap-vfio", "no_group"),
            Program {
                words: &OF_THE_RUNG,
                when: When::Usual,
                ..always("hmmap-core", "host_faults")
            },
            Program { when: When::Deep, ..always("hmmap-core", "host_faults") },
        ],
    },
    Session {
        name: "suite",
        series: Series::Newest,
        iommu: Iommu::LeftAlone,
        programs: &[suite("embedded"), suite("simulated")],
    },
    Session {
        name: "suite-vulkan",
        series: Series::Newest,
        iommu: Iommu::LeftAlone,
        programs: &[suite("driver_vulkan")],
    },
];

impl Session {
    /// What cargo calls its programs.
    pub(super) fn targets(&self) -> impl Iterator<Item = &'static str> {
        self.programs.iter().map(|program| program.target)
    }

    /// How long one boot of it may take.
    pub(super) fn limit(&self, depth: Depth) -> Duration {
        match depth {
            Depth::Usual => Duration::from_secs(480),
            Depth::Deep => Duration::from_secs(2 * 3600),
        }
    }

    /// Whether it has anything to do.
    pub(super) fn is_for(&self, depth: Depth) -> bool {
        self.programs.iter().any(|program| program.is_for(depth))
    }

    /// Its programs among those that were built, each with the words that choose among its tests: `filter`, where there is one.
    pub(super) fn programs<'a>(
        &self,
        depth: Depth,
        binaries: &'a [Binary],
        filter: &'a [String],
    ) -> Result<Vec<Chosen<'a>>> {
        let mut found = Vec::new();
        for program in self.programs {
            if !program.is_for(depth) {
                continue;
            }
            let name = format!("{}::{}", program.package, program.target);
            let binary = binaries.iter().find(|binary| binary.name == name);
            ensure!(binary.is_some(), "cargo built no {name}");
            let chosen: Vec<&str> = filter.iter().map(String::as_str).collect();
            let words = if filter.is_empty() { program.words.to_vec() } else { chosen };
            found.extend(binary.map(|binary| Chosen { binary, words, size: program.size }));
        }
        Ok(found)
    }
}
