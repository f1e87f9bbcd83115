//! Prometheus's own text format, made from OpenMetrics.
//!
//! The library writes OpenMetrics, in which a family of counters is named without the `_total` of
//! its samples. The older format, which `promtool check metrics` and many scrapers read, names it
//! as its samples.

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Prometheus,
}

impl Format {
    /// What a client that sends this `Accept` header gets: what it prefers, or else Prometheus's own
    /// format. `None` if it refuses both (RFC 9110, section 12.5.1).
    ///
    /// A client that asks only for something else is given text as well: it may be a browser.
    pub fn accepted(accept: &str) -> Option<Self> {
        let preferences = [Self::Prometheus, Self::OpenMetrics].map(|format| {
            // The range that is most specific decides.
            let ranges = accept.split(',').filter_map(|range| Range::parse(range)?.fits(format));
            (format, ranges.max().map(|(_, quality)| quality))
        });
        preferences
            .into_iter()
            .filter(|(_, quality)| *quality != Some(0))
            // Of equals, the first.
            .rev()
            .max_by_key(|(_, quality)| quality.unwrap_or(0))
            .map(|(format, _)| format)
    }

    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A range of media types in an `Accept` header.
#[derive(Debug, Clone, Copy)]
struct Range<'a> {
    media_type: &'a str,
    version: Option<&'a str>,
    /// How much it is wanted, in thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    /// `TYPE/SUBTYPE;NAME=VALUE…`; `None` if its quality is none.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self { media_type: parts.next()?, version: None, quality: 1000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if name.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value.trim().trim_matches('"'));
            } else if name.trim().eq_ignore_ascii_case("q") {
                let quality: f64 = value.trim().parse().ok()?;
                range.quality = (0.0..=1.0).contains(&quality).then_some((quality * 1e3) as u16)?;
            }
        }
        Some(range)
    }

    /// If the format is in it: how specific it is, and how much it is wanted.
    fn fits(self, format: Format) -> Option<(u8, u16)> {
        let (media_type, version) = match format {
            Format::OpenMetrics => ("application/openmetrics-text", "1.0.0"),
            Format::Prometheus => ("text/plain", "0.0.4"),
        };
        let main_type = media_type.split('/').next().unwrap_or_default();
        let specific = if self.media_type.eq_ignore_ascii_case(media_type) {
            match self.version {
                None => 2,
                Some(wanted) if wanted == version => 3,
                Some(_) => return None,
            }
        } else if self.media_type.strip_suffix("/*").is_some_and(|wanted| wanted == main_type) {
            1
        } else if self.media_type == "*/*" {
            0
        } else {
            return None;
        };
        Some((specific, self.quality))
    }
}

/// Rewrites the comments; the samples are the same.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // The help line precedes the type line, which decides the family's name.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((of, text)) = help.take().filter(|(of, _)| *of == name) {
                out.push_str(&format!("# HELP {of}{suffix} {text}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that counters and infos are named as their samples, and all else stays.
    #[test]
    fn families_are_renamed() {
        let open = "# HELP a Help me.\n# TYPE a counter\na_total{x=\"# TYPE\"} 1\n\
                    # HELP b Build.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
                    # HELP c Now.\n# TYPE c gauge\n# UNIT c seconds\nc 2\n# EOF\n";
        let expected = "# HELP a_total Help me.\n# TYPE a_total counter\na_total{x=\"# TYPE\"} 1\n\
                        # HELP b_info Build.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n\
                        # HELP c Now.\n# TYPE c gauge\nc 2\n";
        assert_eq!(to_prometheus(open), expected);
    }

    /// Check that the format is what the client asks for. Bug: `q` was ignored.
    #[test]
    fn format_is_negotiated() {
        let (open_metrics, prometheus) = (Some(Format::OpenMetrics), Some(Format::Prometheus));
        for (accept, expected) in [
            ("", prometheus),
            ("*/*", prometheus),
            ("text/html, application/json", prometheus),
            ("application/openmetrics-text", open_metrics),
            ("application/openmetrics-text;version=1.0.0;q=0.75,text/plain;q=0.5", open_metrics),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.75", prometheus),
            ("application/openmetrics-text; q=0.2, */*; q=0.1", open_metrics),
            ("Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1", open_metrics),
            ("application/*, text/plain;q=0.9", open_metrics),
            // What Prometheus 3 sends.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                open_metrics,
            ),
            // A version that is not ours is another format.
            ("application/openmetrics-text;version=0.0.1,text/plain;q=0.1", prometheus),
            // 0 refuses, and the more specific range decides.
            ("application/openmetrics-text;q=0", prometheus),
            ("text/plain;q=0", open_metrics),
            ("*/*;q=0, application/openmetrics-text", open_metrics),
            ("text/*, text/plain;q=0", open_metrics),
            ("*/*;q=0", None),
            ("text/plain;q=0, application/openmetrics-text;q=0.000", None),
            // What makes no sense is not there.
            ("application/openmetrics-text;q=2", prometheus),
            ("application/openmetrics-text;q=x,,;;", prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept}");
        }
    }
}
