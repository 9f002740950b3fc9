"""Writers: one file per artifact."""
