//! Laws of writing out: what comes of it is what somebody would have written by hand.
