//! A disk made of memory and a seed.
