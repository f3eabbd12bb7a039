"""Recurrent networks on the CPU: the fastest way to train and to run one."""
