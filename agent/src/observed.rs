//! What is true now, with a revision.
