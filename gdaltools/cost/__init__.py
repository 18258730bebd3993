"""The cost of an operation: seconds with an interval, and a bound on memory that no run exceeds."""
