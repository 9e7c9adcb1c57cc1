//! Where apt gets packages from: both file formats, and the stanza that adds a backports suite. Pure.
//!
//! *deb822* files (`*.sources`) hold stanzas of `Field: value`, a value going on over lines that start with a blank;
//! *one-line* files (`*.list`) hold `deb [options] address suite component...`.

use std::collections::BTreeMap;

/// One source: packages of some components of some suites at some addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) uris: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) components: Vec<String>,
    /// The key the source is checked with: a path, or a whole key block over several lines.
    pub(crate) signed_by: Option<String>,
}

/// The sources of binary packages in a deb822 file; disabled stanzas are left out.
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            found.extend(source_of(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            let value: &mut String = fields.entry(current.clone()).or_default();
            value.push('\n');
            value.push_str(line);
        } else if let Some((name, value)) = line.split_once(':') {
            current = name.trim().to_ascii_lowercase();
            fields.insert(current.clone(), value.trim().to_owned());
        }
    }
    found
}

fn source_of(fields: &BTreeMap<String, String>) -> Option<Source> {
    let words = |name: &str| -> Vec<String> {
        let value = fields.get(name).map_or("", String::as_str);
        value.split_whitespace().map(str::to_owned).collect()
    };
    let enabled = !matches!(fields.get("enabled").map(String::as_str), Some("no" | "false"));
    let binary = words("types").iter().any(|kind| kind == "deb");
    (enabled && binary).then(|| Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: fields.get("signed-by").cloned(),
    })
}

/// The sources of binary packages in a one-line file.
pub(crate) fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix(|c: char| c.is_whitespace())?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|word| word.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: signed_by.map(str::to_owned),
    })
}

/// The backports suite of a Debian release.
pub(crate) fn backports_suite(codename: &str) -> String {
    format!("{codename}-backports")
}

/// True if one of `sources` offers `suite`.
pub(crate) fn has_suite(sources: &[Source], suite: &str) -> bool {
    sources.iter().any(|source| source.suites.iter().any(|name| name == suite))
}

/// The stanza that adds the backports of `codename` at the address where the release itself comes from, checked with
/// the same key. `None` when no source offers the release over a network.
pub(crate) fn backports_stanza(sources: &[Source], codename: &str) -> Option<String> {
    let offers_release = |source: &&Source| {
        let release =
            |suite: &String| suite == codename || suite == "stable" || suite == "oldstable";
        source.suites.iter().any(release)
            && source.components.iter().any(|component| component == "main")
            && source.uris.iter().any(|uri| !uri.starts_with("cdrom:"))
    };
    let source = sources.iter().find(offers_release)?;
    let uris: Vec<&str> =
        source.uris.iter().map(String::as_str).filter(|uri| !uri.starts_with("cdrom:")).collect();
    let mut stanza = format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n",
        uris.join(" "),
        backports_suite(codename)
    );
    if let Some(key) = &source.signed_by {
        stanza.push_str(&format!("Signed-By: {key}\n"));
    }
    Some(stanza)
}

/// What `/etc/os-release` says that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    /// `debian`, `ubuntu`, ...
    pub(crate) id: String,
    /// `bookworm`; empty on releases without one.
    pub(crate) codename: String,
}

/// Reads the text of `/etc/os-release`.
pub(crate) fn parse_os_release(text: &str) -> OsRelease {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
    };
    OsRelease { id: field("ID"), codename: field("VERSION_CODENAME") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a remark inside a stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb deb-src
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main contrib

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm-backports
Components: main
";

    #[test]
    fn deb822_stanzas_are_read_and_disabled_ones_left_out() {
        let found = parse_deb822(DEB822);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(found[1].components, ["main", "contrib"]);
        assert!(!has_suite(&found, "bookworm-backports"));
        assert!(has_suite(&found, "bookworm-security"));
    }

    #[test]
    fn the_backports_stanza_uses_the_address_and_key_of_the_release() {
        let expected = "\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/archive.gpg
";
        let mut sources = parse_deb822(DEB822);
        assert_eq!(backports_stanza(&sources, "bookworm").unwrap(), expected);
        // The stanza is itself a source that offers the suite: a second run finds nothing to add.
        sources.extend(parse_deb822(expected));
        assert!(has_suite(&sources, "bookworm-backports"));
        assert_eq!(backports_stanza(&sources[1..2], "bookworm"), None);
    }

    #[test]
    fn a_key_block_over_several_lines_is_kept_whole() {
        let text = "Types: deb\nURIs: http://m.example/d\nSuites: trixie\nComponents: main\n\
                    Signed-By:\n -----BEGIN-----\n .\n abc\n";
        let stanza = backports_stanza(&parse_deb822(text), "trixie").unwrap();
        assert!(stanza.ends_with("Signed-By: \n -----BEGIN-----\n .\n abc\n"), "{stanza}");
        assert_eq!(parse_deb822(&stanza)[0].signed_by, parse_deb822(text)[0].signed_by);
    }

    #[test]
    fn one_line_sources_are_read_with_options() {
        let text = "\
# deb http://off.example/debian bookworm main
deb cdrom:[Debian 12]/ bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # why
deb-src http://mirror.example/debian bookworm main
debug http://x.example y main
";
        let found = parse_one_line(text);
        assert_eq!(found.len(), 2);
        let stanza = backports_stanza(&found, "bookworm").unwrap();
        assert!(stanza.contains("URIs: http://mirror.example/debian\n"), "{stanza}");
        assert!(stanza.contains("Signed-By: /k.gpg\n"), "{stanza}");
    }

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let text =
            "PRETTY_NAME=\"Debian 12\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        let found = parse_os_release(text);
        assert_eq!(found, OsRelease { id: "debian".into(), codename: "bookworm".into() });
        assert_eq!(parse_os_release("ID='arch'\n").codename, "");
    }
}
