"""stable-baselines3's PPO, in two variants: stabilizing, and with the clip that it has, which the agent does."""

from stable_baselines3 import PPO

from steadynorm.integrations.stable_baselines3 import SteadyNormCallback

STEPS = 640
# --8<-- [start:stabilize]
ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=64, max_grad_norm=float("inf"), seed=0, device="cpu")  # inf: no clip
ppo.learn(STEPS, callback=SteadyNormCallback(run="cartpole-ppo", server="http://127.0.0.1:8470"))
# --8<-- [end:stabilize]
# --8<-- [start:clip]
ppo = PPO("MlpPolicy", "CartPole-v1", n_steps=64, max_grad_norm=float("inf"), seed=0, device="cpu")
callback = SteadyNormCallback(run="cartpole-ppo", server="http://127.0.0.1:8470", mode="clip", clip_norm=0.5)
ppo.learn(STEPS, callback=callback)
# --8<-- [end:clip]
