from hypothesis import settings

# It runs in the Azure CLI's own environment.
collect_ignore = ["support/az_parser.py"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("usual", deadline=None)
settings.load_profile("usual")
# pytest --hypothesis-profile=long
settings.register_profile("long", max_examples=2000, stateful_step_count=100, deadline=None)
