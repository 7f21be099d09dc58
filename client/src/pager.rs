//! Walks a list page by page. Invariant: a page token that comes again ends the walk with an error, not with a loop.

use std::collections::VecDeque;
use std::fmt;

use futures::future::BoxFuture;
use futures::stream::{self, Stream};

use crate::error::Error;

/// One page and the token of the next, empty at the end.
pub(crate) type Page<T> = (Vec<T>, String);
type Fetch<T> = Box<dyn FnMut(String) -> BoxFuture<'static, Result<Page<T>, Error>> + Send>;

/// A list that is fetched as it is read.
pub struct Pager<T> {
    fetch: Fetch<T>,
    ready: VecDeque<T>,
    token: Option<String>,
}

impl<T: Send + 'static> Pager<T> {
    pub(crate) fn new<F>(mut fetch: impl FnMut(String) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Page<T>, Error>> + Send + 'static,
    {
        Self {
            fetch: Box::new(move |token| Box::pin(fetch(token))),
            ready: VecDeque::new(),
            token: Some(String::new()),
        }
    }

    /// The next item, or `None` at the end. After an error, the same page is tried again.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let Some(token) = self.token.clone() else { return Ok(None) };
            let (items, next) = (self.fetch)(token.clone()).await?;
            if !next.is_empty() && next == token {
                return Err(Error::MalformedAnswer { what: "a page names itself as the next one" });
            }
            self.ready = items.into();
            self.token = Some(next).filter(|next| !next.is_empty());
        }
    }

    /// All that is left.
    pub async fn collect(mut self) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        while let Some(item) = self.next().await? {
            all.push(item);
        }
        Ok(all)
    }

    /// The same as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<T, Error>> + Send {
        stream::unfold(Some(self), |pager| async {
            let mut pager = pager?;
            match pager.next().await {
                Ok(Some(item)) => Some((Ok(item), Some(pager))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

impl<T> fmt::Debug for Pager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pager").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    fn pages(pages: &'static [(&'static str, &'static [u8], &'static str)]) -> Pager<u8> {
        Pager::new(move |token| {
            let (_, items, next) = pages.iter().find(|(asked, _, _)| *asked == token).unwrap();
            async move { Ok((items.to_vec(), (*next).to_owned())) }
        })
    }

    #[tokio::test]
    async fn pages_follow_each_other_to_the_end_also_past_an_empty_one() {
        let all = pages(&[("", &[1, 2], "a"), ("a", &[], "b"), ("b", &[3], "")]);
        assert_eq!(all.collect().await.unwrap(), [1, 2, 3]);
        let all = pages(&[("", &[1, 2], "a"), ("a", &[3], "")]).into_stream();
        assert_eq!(all.try_collect::<Vec<_>>().await.unwrap(), [1, 2, 3]);
        assert!(pages(&[("", &[], "")]).collect().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_page_that_names_itself_is_an_error() {
        let pager = pages(&[("", &[1], "a"), ("a", &[2], "a")]);
        assert!(matches!(pager.collect().await, Err(Error::MalformedAnswer { .. })));
    }
}
