//! The Vulkan loader and the newest lavapipe, as system packages.
//!
//! [`decide`] is pure: it looks at what is here and what could be had, and names the next step. The loop around it
//! takes that step and looks again, until nothing is left to do. Where this process has no rights, the same step is
//! printed as the command that a person would type.
//!
//! A driver that is new enough is left alone, and so are the package sources then. Debian 12 ships Mesa 22.3; its
//! backports have 25.0, and the backports suite is added at the mirror that the machine uses already.

use std::path::Path;

use anyhow::Result;

use super::{Machine, State, read_sources};
use crate::apt::answers::Candidate;
use crate::apt::sources::{OsRelease, Source, backports_stanza, backports_suite, has_suite};
use crate::apt::{Apt, install_words};
use crate::environment::LAVAPIPE;
use crate::mesa::{Driver, MesaVersion, WANTED, newest_lavapipe, read_driver};

const LOADER: &str = "libvulkan.so.1";
const PACKAGES: [&str; 2] = ["libvulkan1", "mesa-vulkan-drivers"];
const STANZA_FILE: &str = "/etc/apt/sources.list.d/hmmap-backports.sources";
const NO_RIGHTS: &str = "not here, and nothing may be installed (not root, no sudo without a password, or --no-install)";
const ELSEWHERE: &str = "with your package manager install the Vulkan loader and Mesa's lavapipe, 25.0 or later \
    (Fedora: vulkan-loader mesa-vulkan-drivers; Arch: vulkan-icd-loader vulkan-swrast)";

/// What [`decide`] looks at.
#[derive(Debug)]
struct Facts<'a> {
    loader: bool,
    driver: Option<MesaVersion>,
    candidates: &'a [Candidate],
    sources: &'a [Source],
    os: &'a OsRelease,
    /// The package lists were fetched in this run.
    updated: bool,
}

/// The next step.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing to do, or nothing better to be had.
    Rest,
    /// Fetch the package lists.
    Update,
    /// Install the packages, from this release where one has to be named.
    Install { release: Option<String> },
    /// Add the backports suite.
    AddBackports { stanza: String, suite: String },
}

/// Finds the loader and the driver, and installs them where they are missing or too old and rights allow it.
/// Gives the state of the loader, the driver, and its state.
pub(super) fn ensure(machine: &Machine) -> (State, Option<Driver>, State) {
    let (reason, remedy) = match &machine.apt {
        Err(reason) => (reason.clone(), Some(String::from(ELSEWHERE))),
        Ok(apt) if !apt.may_install() => (String::from(NO_RIGHTS), by_hand(machine, *apt)),
        Ok(apt) => match improve(machine, *apt) {
            Ok(()) => (String::from("the package archive has none"), None),
            Err(error) => (format!("{error:#}"), by_hand(machine, *apt)),
        },
    };
    let missing = |remedy: Option<String>| State::Missing { reason: reason.clone(), remedy };
    let loader = match find_loader(machine) {
        Some(path) => State::Ready(path),
        // One command brings both; it is printed once.
        None if find_driver(machine).is_none() => missing(Some(String::from("see lavapipe"))),
        None => missing(remedy.clone()),
    };
    let driver = find_driver(machine);
    let state = match &driver {
        Some(driver) if driver.version < WANTED => {
            let how = remedy.map_or(String::new(), |how| format!("; {reason}; by hand: {how}"));
            let found = describe(driver);
            State::Ready(format!("{found}, older than {WANTED}: sparse cases skip{how}"))
        }
        Some(driver) => State::Ready(describe(driver)),
        None => missing(remedy),
    };
    (loader, driver, state)
}

fn describe(driver: &Driver) -> String {
    format!("{} ({})", driver.version, driver.icd.display())
}

/// Takes steps until there is none, or none that this process may take.
fn improve(machine: &Machine, apt: Apt) -> Result<()> {
    let mut updated = false;
    while apt.may_install() {
        match next_step(machine, apt, updated)? {
            Step::Rest => break,
            Step::Update => apt.update()?,
            Step::AddBackports { stanza, .. } => add_backports(apt, &stanza)?,
            Step::Install { release } => {
                if let Err(error) = apt.install(&PACKAGES, release.as_deref()) {
                    anyhow::ensure!(!updated, error);
                    // The lists may be older than the archive: the file they name is gone.
                    apt.update()?;
                    apt.install(&PACKAGES, release.as_deref())?;
                }
                break;
            }
        }
        updated = true;
    }
    Ok(())
}

/// Adds the suite; takes it away again if the mirror does not carry it, so that apt is left working.
fn add_backports(apt: Apt, stanza: &str) -> Result<()> {
    let file = Path::new(STANZA_FILE);
    println!("    adding {STANZA_FILE}");
    apt.write_system_file(file, stanza)?;
    apt.update().or_else(|error| {
        apt.remove_system_file(file)?;
        apt.update()?;
        Err(error.context("the mirror has no backports; the source was removed again"))
    })
}

/// The step that this process may not take, as a command.
fn by_hand(machine: &Machine, apt: Apt) -> Option<String> {
    // Lists that are there are taken for fresh: nothing better can be known without rights.
    let updated = !apt.candidates("apt").ok()?.is_empty();
    match next_step(machine, apt, updated).ok()? {
        Step::Rest => None,
        step => Some(command_line(&step)),
    }
}

fn next_step(machine: &Machine, apt: Apt, updated: bool) -> Result<Step> {
    let candidates = apt.candidates("mesa-vulkan-drivers")?;
    Ok(decide(&Facts {
        loader: find_loader(machine).is_some(),
        driver: find_driver(machine).map(|driver| driver.version),
        candidates: &candidates,
        sources: &read_sources(),
        os: &machine.os,
        updated,
    }))
}

fn decide(facts: &Facts<'_>) -> Step {
    if facts.driver.is_some_and(|version| version >= WANTED) {
        let install = Step::Install { release: None };
        return if facts.loader { Step::Rest } else { install };
    }
    let good = |candidate: &&Candidate| candidate.mesa().is_some_and(|version| version >= WANTED);
    // The release's own packages come before those that apt has to be told to take.
    let best = facts.candidates.iter().filter(good).min_by_key(|found| found.release().is_some());
    if let Some(best) = best {
        return Step::Install { release: best.release().map(str::to_owned) };
    }
    if facts.candidates.is_empty() {
        return if facts.updated { Step::Rest } else { Step::Update };
    }
    let suite = backports_suite(&facts.os.codename);
    if facts.os.id == "debian"
        && !has_suite(facts.sources, &suite)
        && let Some(stanza) = backports_stanza(facts.sources, &facts.os.codename)
    {
        return Step::AddBackports { stanza, suite };
    }
    match facts.updated {
        false => Step::Update,
        true if facts.driver.is_none() || !facts.loader => Step::Install { release: None },
        true => Step::Rest,
    }
}

fn command_line(step: &Step) -> String {
    let install = |release: Option<&str>| {
        format!("sudo apt-get {}", install_words(&PACKAGES, release).join(" "))
    };
    match step {
        Step::Rest => String::new(),
        Step::Update => String::from("sudo apt-get update && cargo xtask setup"),
        Step::Install { release } => install(release.as_deref()),
        Step::AddBackports { stanza, suite } => {
            let lines: Vec<String> = stanza.lines().map(|line| format!("'{line}'")).collect();
            format!(
                "printf '%s\\n' {} | sudo tee {STANZA_FILE} && sudo apt-get update && {}",
                lines.join(" "),
                install(Some(suite))
            )
        }
    }
}

fn find_loader(machine: &Machine) -> Option<String> {
    let paths = machine.library_dirs.iter().map(|dir| dir.join(LOADER));
    paths.filter(|path| path.exists()).map(|path| path.display().to_string()).next()
}

fn find_driver(machine: &Machine) -> Option<Driver> {
    match std::env::var_os(LAVAPIPE) {
        Some(icd) => read_driver(Path::new(&icd), &machine.library_dirs),
        None => newest_lavapipe(&machine.icd_dirs, &machine.library_dirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apt::sources::parse_deb822;

    const RELEASE: &str =
        "Types: deb\nURIs: http://m.example/d\nSuites: bookworm\nComponents: main\n";
    const BACKPORTS: &str =
        "\nTypes: deb\nURIs: http://m.example/d\nSuites: bookworm-backports\nComponents: main\n";

    fn candidate(version: &str, suite: &str) -> Candidate {
        Candidate { version: version.into(), suite: suite.into() }
    }

    fn version(major: u32, minor: u32) -> MesaVersion {
        MesaVersion { major, minor }
    }

    fn bookworm() -> OsRelease {
        OsRelease { id: "debian".into(), codename: "bookworm".into() }
    }

    #[test]
    fn a_good_driver_is_left_alone_whatever_could_be_had() {
        let candidates = [candidate("26.1.0-1", "bookworm-backports")];
        let os = bookworm();
        let facts = Facts {
            loader: true,
            driver: Some(version(25, 0)),
            candidates: &candidates,
            sources: &parse_deb822(RELEASE),
            os: &os,
            updated: false,
        };
        assert_eq!(decide(&facts), Step::Rest);
        assert_eq!(decide(&Facts { loader: false, ..facts }), Step::Install { release: None });
    }

    #[test]
    fn debian_12_gets_its_backports_added_and_then_used() {
        let stock = [candidate("22.3.6-1+deb12u2", "bookworm")];
        let os = bookworm();
        let sources = parse_deb822(RELEASE);
        let facts = Facts {
            loader: false,
            driver: None,
            candidates: &stock,
            sources: &sources,
            os: &os,
            updated: false,
        };
        let step = decide(&facts);
        assert!(matches!(&step, Step::AddBackports { suite, .. } if suite == "bookworm-backports"));
        let typed = command_line(&step);
        assert!(
            typed.contains("'URIs: http://m.example/d' 'Suites:")
                && typed.contains("-t bookworm-backports")
        );

        let both = [stock[0].clone(), candidate("25.0.7-2~bpo12+1", "bookworm-backports")];
        let sources = parse_deb822(&format!("{RELEASE}{BACKPORTS}"));
        let facts = Facts { candidates: &both, sources: &sources, updated: true, ..facts };
        let release = Some(String::from("bookworm-backports"));
        assert_eq!(decide(&facts), Step::Install { release });
    }

    #[test]
    fn the_releases_own_driver_comes_before_backports_and_lists_before_both() {
        let both =
            [candidate("26.1.3-1~bpo13+1", "trixie-backports"), candidate("25.0.7-2", "trixie")];
        let os = OsRelease { id: "debian".into(), codename: "trixie".into() };
        let sources = parse_deb822(&RELEASE.replace("bookworm", "trixie"));
        let facts = Facts {
            loader: false,
            driver: None,
            candidates: &both,
            sources: &sources,
            os: &os,
            updated: false,
        };
        assert_eq!(decide(&facts), Step::Install { release: None });
        assert_eq!(decide(&Facts { candidates: &[], ..facts }), Step::Update);
    }

    #[test]
    fn backports_named_but_not_yet_listed_are_fetched_first() {
        let stock = [candidate("22.3.6-1+deb12u2", "bookworm")];
        let os = bookworm();
        let sources = parse_deb822(&format!("{RELEASE}{BACKPORTS}"));
        let facts = Facts {
            loader: true,
            driver: None,
            candidates: &stock,
            sources: &sources,
            os: &os,
            updated: false,
        };
        assert_eq!(decide(&facts), Step::Update);
        // Still nothing newer: the old one is better than none, and kept where it is there already.
        let facts = Facts { updated: true, ..facts };
        assert_eq!(decide(&facts), Step::Install { release: None });
        assert_eq!(decide(&Facts { driver: Some(version(22, 3)), ..facts }), Step::Rest);
    }

    #[test]
    fn a_release_with_a_new_mesa_needs_no_other_suite() {
        let candidates = [
            candidate("24.0.5-1ubuntu1", "noble"),
            candidate("25.0.7-0ubuntu0.24.04.2", "noble-updates"),
        ];
        let os = OsRelease { id: "ubuntu".into(), codename: "noble".into() };
        let facts = Facts {
            loader: false,
            driver: None,
            candidates: &candidates,
            sources: &[],
            os: &os,
            updated: false,
        };
        assert_eq!(decide(&facts), Step::Install { release: None });
        // A fresh container has no lists at all.
        assert_eq!(decide(&Facts { candidates: &[], ..facts }), Step::Update);
        assert_eq!(decide(&Facts { candidates: &[], updated: true, ..facts }), Step::Rest);
    }
}
