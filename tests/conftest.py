from hypothesis import settings

# pytest --hypothesis-profile=long
settings.register_profile("long", max_examples=2000, stateful_step_count=100)
