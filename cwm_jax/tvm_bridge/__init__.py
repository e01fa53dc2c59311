"""Everything that needs TVM."""
