"""The platform's part: jobs, their stages, the routing of their tasks and the estimates for them."""
