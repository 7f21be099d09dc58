//! Every relative link of every page leads to a file, and to a heading if it names one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::page;

#[test]
fn relative_links_lead_somewhere() {
    let mut pages = markdown_in(&page::root(), false);
    pages.extend(markdown_in(&page::root().join("docs"), true));
    assert!(pages.len() > 10, "{pages:?}");
    let broken: Vec<String> = pages.iter().flat_map(|page| broken_links(page)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

fn markdown_in(dir: &Path, deep: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if deep && path.is_dir() {
            found.extend(markdown_in(&path, true));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

fn broken_links(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let prose = page::prose(&text).join("\n");
    let mut broken = Vec::new();
    for link in prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, heading) =
            link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
        let target = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
        let leads =
            target.exists() && heading.is_none_or(|heading| headings(&target).any(|it| it == heading));
        if !leads {
            broken.push(format!("{}: {link}", page.display()));
        }
    }
    broken
}

/// The names that a page's headings have in links: lower case, blanks as dashes, no punctuation.
fn headings(page: &Path) -> impl Iterator<Item = String> {
    let text = fs::read_to_string(page).unwrap_or_default();
    let headings: Vec<String> = page::prose(&text)
        .into_iter()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect()
        })
        .collect();
    headings.into_iter()
}
