"""MetaSchedule's databases and traces as records, without TVM."""
