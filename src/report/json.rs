//! Owns: a report as JSON, in the structure of [`RunReport`], which is versioned by its field `schema`. Must not: print.

use crate::model::RunReport;

/// The report as indented JSON that ends in a line feed.
///
/// Fails only for a value that JSON cannot express, which no report of this program has.
pub fn json(report: &RunReport) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::text::sample;
    use super::*;

    #[test]
    fn it_reads_back_and_names_its_schema() {
        let report = sample::bad();
        let text = json(&report).unwrap();
        assert!(text.starts_with("{\n  \"schema\": 1,\n") && text.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<RunReport>(&text).unwrap(), report);
    }
}
