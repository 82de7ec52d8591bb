//! How much is recorded at a time: the sites are divided into groups, and each group is recorded by forward and backward
//! passes of its own.

use std::ops::Range;

use super::Metric;
use super::options::CANDIDATES;
use super::record::Footprint;
use crate::{Error, Result};

/// What the gradients of a backward pass take, per mille of the values of the forward pass.
const BACKWARD: usize = 300;

/// What this program and its libraries take beside models and values.
const PROGRAM: usize = 64 << 20;

/// A division of the work that stays within a budget.
#[derive(Debug, PartialEq)]
pub(super) struct Division {
    /// How many batches are recorded at once.
    pub(super) at_once: usize,
    /// Indices of the sites that are recorded together.
    pub(super) groups: Vec<Range<usize>>,
}

/// What takes memory.
#[derive(Clone, Copy)]
pub(super) struct Demand<'d> {
    /// What one batch takes.
    pub(super) footprint: &'d Footprint,
    /// Bytes of each site's weight.
    pub(super) weights: &'d [usize],
    /// Bytes of what the rounding of each site's weight takes beside its rows.
    pub(super) grams: &'d [usize],
    /// The number of batches of the calibration set.
    pub(super) batches: usize,
    /// Bytes of the model file.
    pub(super) model: usize,
    pub(super) metric: Metric,
}

/// What the process may use.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// In bytes.
    pub(super) memory: usize,
}

/// Divides the sites from index `from` on; an error if the memory is not enough for each of them alone.
pub(super) fn divide(demand: Demand, from: usize, limits: Limits) -> Result<Division> {
    let Demand { footprint, weights, grams, batches, model, metric } = demand;
    // The file is mapped, and tract has a copy of its weights and another while it reads them.
    let fixed = PROGRAM + 3 * model;
    let available = limits.memory.saturating_sub(fixed);
    let batch = footprint.values / 1000 * (1000 + BACKWARD);
    let at_once = (available / 2 / batch.max(1)).clamp(1, limits.threads.min(batches).max(1));
    let too_small = |needed: usize| {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let (given, needed) = (mib(limits.memory), mib(needed));
        Error::usage(format!("memory budget: {given} MiB are not enough, {needed} MiB are needed"))
    };

    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut recorded, mut search) = (0, 0);
    let sites = footprint.sites.iter().zip(weights).zip(grams).enumerate();
    for (i, ((site, weight), gram)) in sites.skip(from) {
        let curvature = if metric == Metric::Hessian { site.output } else { 0 };
        let record = (site.a + site.b + curvature) * batches;
        // The rows as they are, the float outputs, the sorted rows and their codes; and the codes of B of every candidate.
        let rows = (3 * site.a + 4 * site.output) * batches / site.heads;
        let operands = (weight + site.b * batches / site.heads) / size_of::<f32>() * CANDIDATES;
        // After the search, the rows as they are and as they are weighted, in float and quantized.
        let rounding = (3 * site.a + site.output) * batches + gram;
        let of_site = (rows + operands).max(if *gram > 0 { rounding } else { 0 });
        let fits = |recorded: usize, search: usize| recorded + search.max(at_once * batch) <= available;
        match groups.last_mut() {
            Some(group) if fits(recorded + record, search.max(of_site)) => {
                group.end = i + 1;
                recorded += record;
                search = search.max(of_site);
            }
            _ => {
                (recorded, search) = (record, of_site);
                groups.push(i..i + 1);
                if !fits(recorded, search) {
                    return Err(too_small(fixed + recorded + search.max(at_once * batch)));
                }
            }
        }
    }
    Ok(Division { at_once, groups })
}

#[cfg(test)]
mod tests {
    use super::super::record::SiteFootprint;
    use super::*;

    const MIB: usize = 1 << 20;

    fn divided(budget: usize, from: usize) -> Result<Division> {
        let site = || SiteFootprint { a: MIB, b: 0, output: MIB, heads: 1 };
        let footprint = Footprint { values: 10 * MIB, sites: (0..6).map(|_| site()).collect() };
        let demand = Demand {
            footprint: &footprint,
            weights: &[0; 6],
            grams: &[0; 6],
            batches: 4,
            model: MIB,
            metric: Metric::Hessian,
        };
        divide(demand, from, Limits { threads: 2, memory: budget })
    }

    #[test]
    fn a_large_budget_takes_all_sites_at_once() {
        assert_eq!(
            divided(1 << 30, 0).unwrap(),
            Division { at_once: 2, groups: std::iter::once(0..6).collect() }
        );
        assert_eq!(divided(1 << 30, 4).unwrap().groups, std::iter::once(4..6).collect::<Vec<_>>());
    }

    /// 67 MiB are fixed, a batch takes 13, a site's record 8 and its search 28.
    #[test]
    fn a_small_budget_divides_the_sites() {
        let division = divided(67 * MIB + 51 * MIB, 0).unwrap();
        assert_eq!(division, Division { at_once: 1, groups: vec![0..2, 2..4, 4..6] });
        assert_eq!(divided(67 * MIB + 37 * MIB, 0).unwrap().groups.len(), 6);
    }

    #[test]
    fn too_small_a_budget_says_what_is_needed() {
        let error = divided(67 * MIB + 35 * MIB, 0).unwrap_err().to_string();
        assert_eq!(error, "memory budget: 102 MiB are not enough, 103 MiB are needed");
    }
}
