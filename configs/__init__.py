"""Configuration presets, found by name: demo, radar, moving_mnist, moving_mnist_paper."""
