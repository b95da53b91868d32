//! What was pushed, against the files it lies in.
