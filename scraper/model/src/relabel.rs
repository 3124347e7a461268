//! Relabelling: rules that rewrite or drop label sets.
