"""Built-in teachers: timm models, saved runs, and CIFAR ResNets."""
