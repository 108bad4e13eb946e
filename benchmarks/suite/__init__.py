"""From options to finished runs: plan, processes, cluster, one run. It never knows tables and plots."""
