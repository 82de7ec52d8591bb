//! Which sites stay in float because the user says so.

use std::ops::RangeInclusive;

use regex::Regex;

use super::{Site, SiteKind};
use crate::{Error, Result};

/// The block of each site, from 0: which of the attentions it belongs to, in the order of the graph. `None` for what is before the
/// first and behind the last.
pub fn blocks(sites: &[Site]) -> Vec<Option<usize>> {
    let is_scores = |site: &Site| site.kind == SiteKind::Scores;
    let attentions = sites.iter().filter(|site| is_scores(site)).count();
    let mut seen = 0usize;
    let block = |site: &Site| {
        let before = seen;
        seen += usize::from(is_scores(site));
        match site.kind {
            SiteKind::Patch | SiteKind::Head => None,
            SiteKind::Qkv | SiteKind::Q | SiteKind::K | SiteKind::V | SiteKind::Scores => {
                (before < attentions).then_some(before)
            }
            _ => before.checked_sub(1),
        }
    };
    sites.iter().map(block).collect()
}

/// What a request to leave sites in float means.
enum Request {
    Name(Regex),
    Kind(SiteKind),
    Blocks(RangeInclusive<usize>),
}

impl Request {
    /// `kind:K`, `blocks:I` or `blocks:I-J`, `re:REGEX`, or a pattern in which `*` and `?` stand for any characters.
    fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("kind:") {
            let known = SiteKind::ALL.map(SiteKind::name);
            let kind = SiteKind::ALL.into_iter().find(|kind| kind.name() == name);
            return kind.map(Self::Kind).ok_or_else(|| {
                Error::usage(format!("no kind of site is called `{name}`; there are {}", known.join(", ")))
            });
        }
        if let Some(range) = text.strip_prefix("blocks:") {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            return match (first.trim().parse(), last.trim().parse()) {
                (Ok(first), Ok(last)) if first <= last => Ok(Self::Blocks(first..=last)),
                _ => Err(Error::usage(format!("`{range}` is no range of blocks, such as 3 or 0-2"))),
            };
        }
        let pattern = text.strip_prefix("re:").map_or_else(|| globbed(text), str::to_owned);
        let regex = Regex::new(&pattern).map_err(|e| {
            // The other lines point at the place in it.
            let why = e.to_string();
            Error::usage(format!(
                "`{text}`: {}",
                why.lines().last().unwrap_or_default().trim_start_matches("error: ")
            ))
        })?;
        Ok(Self::Name(regex))
    }

    fn means(&self, site: &Site, block: Option<usize>) -> bool {
        match self {
            Self::Name(regex) => regex.is_match(&site.name),
            Self::Kind(kind) => site.kind == *kind,
            Self::Blocks(range) => block.is_some_and(|block| range.contains(&block)),
        }
    }
}

/// A regular expression of the whole name.
fn globbed(pattern: &str) -> String {
    let part = |c: char| match c {
        '*' => ".*".to_string(),
        '?' => ".".to_string(),
        c => regex::escape(c.encode_utf8(&mut [0; 4])),
    };
    format!("^(?s:{})$", pattern.chars().map(part).collect::<String>())
}

/// Whether each of `sites` is meant by one of `requests`; an error if one of these means none.
pub fn named(sites: &[Site], requests: &[String]) -> Result<Vec<bool>> {
    let blocks = blocks(sites);
    let mut named = vec![false; sites.len()];
    for text in requests {
        // A name is a name, whatever characters it has.
        let exact = sites.iter().position(|site| site.name == *text);
        let request = exact.is_none().then(|| Request::parse(text)).transpose()?;
        let mut any = false;
        for (at, site) in sites.iter().enumerate() {
            let means = request.as_ref().map_or(exact == Some(at), |request| request.means(site, blocks[at]));
            named[at] |= means;
            any |= means;
        }
        if !any {
            let why = match request {
                Some(Request::Kind(kind)) => format!("no site is of the kind `{}`", kind.name()),
                Some(Request::Blocks(range)) => {
                    format!("no site lies in the blocks {} to {}", range.start(), range.end())
                }
                _ => format!("no site is called `{text}`"),
            };
            return Err(Error::usage(why));
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::super::{LhsSource, RhsOperand};
    use super::*;
    use crate::onnx::NodeId;

    fn sites() -> Vec<Site> {
        use SiteKind::{Fc1, Fc2, Head, Patch, Proj, Qkv, Scores, Values};
        let block = [Qkv, Scores, Values, Proj, Fc1, Fc2];
        let kinds: Vec<SiteKind> = [&[Patch][..], &block, &block, &[Head]].concat();
        let site = |(at, kind): (usize, &SiteKind)| Site {
            name: format!("/blocks.{}/{}", at.saturating_sub(1) / 6, kind.name()),
            node: NodeId(at),
            kind: *kind,
            a: String::new(),
            a_kind: LhsSource::Plain,
            b: RhsOperand::Activation { value: String::new(), by_head: true },
            output: String::new(),
            bias: None,
        };
        kinds.iter().enumerate().map(site).collect()
    }

    fn names(requests: &[&str]) -> Result<String> {
        let sites = sites();
        let requests: Vec<String> = requests.iter().map(ToString::to_string).collect();
        let excluded = named(&sites, &requests)?;
        let of = sites.iter().zip(excluded).filter(|(_, out)| *out);
        Ok(of.map(|(site, _)| site.node.0.to_string()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn blocks_are_those_of_the_attentions() {
        let of: Vec<Option<usize>> = blocks(&sites());
        let expected = [vec![None], vec![Some(0); 6], vec![Some(1); 6], vec![None]].concat();
        assert_eq!(of, expected);
    }

    #[test]
    fn sites_are_meant_by_name_pattern_kind_and_block() {
        for (requests, expected) in [
            (&["/blocks.1/fc2"][..], "12"),
            (&["*fc2"], "6 12"),
            (&["/blocks.?/fc?", "kind:head"], "5 6 11 12 13"),
            (&["re:blocks\\.0/(qkv|proj)$"], "1 4"),
            (&["blocks:1"], "7 8 9 10 11 12"),
            (&["blocks:0-0", "kind:fc2"], "1 2 3 4 5 6 12"),
        ] {
            assert_eq!(names(requests).unwrap(), expected, "{requests:?}");
        }
        for (request, part) in [
            ("/blocks.1/fc3", "no site is called"),
            ("blocks.1", "no site is called"),
            ("kind:mlp", "no kind of site is called `mlp`; there are patch"),
            ("blocks:2-1", "no range of blocks"),
            ("blocks:7", "no site lies in the blocks 7 to 7"),
            ("re:(", "unclosed group"),
        ] {
            let error = names(&[request]).unwrap_err();
            assert!(error.to_string().contains(part) && error.exit_code() == 2, "{error}");
        }
    }
}
