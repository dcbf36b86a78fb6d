from hypothesis import settings

# The same examples every time, and no deadline: on a busy machine a slow example is no failure.
settings.register_profile("grpo_gym", deadline=None, derandomize=True)
settings.load_profile("grpo_gym")
