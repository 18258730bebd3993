"""The platform's part: jobs, their stages, their routing and what their tasks are expected to take."""
