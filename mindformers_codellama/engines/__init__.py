"""Other engines that can run a configuration in place of ours."""
