//! The near name in an error.
//!
//! Takes a name that is not there and those that are; gives the one that was most likely meant.

/// The candidate nearest to `wanted`, if any is near: the same but for case, or a few letters off.
pub(super) fn nearest<'c>(
    wanted: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    let wanted_lower = wanted.to_lowercase();
    // A typing error in three or four letters; more in a longer name.
    let limit = (wanted.chars().count() / 4).clamp(1, 5);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate == wanted || candidate.len().abs_diff(wanted.len()) > limit {
            continue;
        }
        let candidate_lower = candidate.to_lowercase();
        let distance = if candidate_lower == wanted_lower {
            0
        } else {
            strsim::osa_distance(&candidate_lower, &wanted_lower)
        };
        let is_better = best.is_none_or(|found| (distance, candidate) < found);
        if distance <= limit && is_better {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["SSL_write", "SSL_read", "SSL_writev", "malloc"];

    /// Check that a swap, a wrong case and a missing letter find their name, and noise finds none.
    #[test]
    fn near_names() {
        let near = |wanted| nearest(wanted, NAMES.into_iter());
        assert_eq!(near("SSL_wirte"), Some("SSL_write"));
        assert_eq!(near("ssl_READ"), Some("SSL_read"));
        assert_eq!(near("maloc"), Some("malloc"));
        assert_eq!(near("frobnicate"), None);
        assert_eq!(near(""), None);
    }
}
