"""What an operation costs: seconds with an interval, and a bound on memory that no run exceeds."""
