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

/// One boot.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) name: &'static str,
    pub(super) series: Series,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// In the ordinary run alone.
    Usual,
    /// In the deep run alone.
    Deep,
}

const fn always(package: &'static str, target: &'static str) -> Program {
    Program { package, target, words: &[], when: When::Always }
}

/// The tests of page faults that do not live on threads running at once (the machine has one processor, and an emulated one): `bounce` did not come to
/// its end in three minutes.
const ON_ONE_PROCESSOR: [&str; 7] = [
    "edges::",
    "peers_of_the_process::",
    "renewal::",
    "sigbus::",
    "strangers::",
    "system_calls::",
    "touches::",
];

/// All of them.
pub(super) const SESSIONS: [Session; 2] = [
    Session {
        name: "devices",
        series: Series::Newest,
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
            Program { when: When::Deep, ..always("hmmap-conformance", "embedded") },
            Program { when: When::Deep, ..always("hmmap-conformance", "simulated") },
            Program { when: When::Deep, ..always("hmmap-conformance", "driver_vulkan") },
        ],
    },
    Session {
        name: "stock",
        series: Series::Stock,
        programs: &[Program { words: &ON_ONE_PROCESSOR, ..always("hmmap-core", "host_faults") }],
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
            Depth::Usual => Duration::from_secs(150),
            Depth::Deep => Duration::from_secs(3600),
        }
    }

    /// Its programs among those that were built, each with the words that choose among its tests: `filter`, where there is one.
    pub(super) fn programs<'a>(
        &self,
        depth: Depth,
        binaries: &'a [Binary],
        filter: &'a [String],
    ) -> Result<Vec<(&'a Binary, Vec<&'a str>)>> {
        let mut found = Vec::new();
        for program in self.programs {
            let other = if depth == Depth::Deep { When::Usual } else { When::Deep };
            if program.when == other {
                continue;
            }
            let name = format!("{}::{}", program.package, program.target);
            let binary = binaries.iter().find(|binary| binary.name == name);
            ensure!(binary.is_some(), "cargo built no {name}");
            let chosen: Vec<&str> = filter.iter().map(String::as_str).collect();
            let words = if filter.is_empty() { program.words.to_vec() } else { chosen };
            found.extend(binary.map(|binary| (binary, words)));
        }
        Ok(found)
    }
}
