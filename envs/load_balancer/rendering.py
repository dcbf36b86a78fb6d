"""stub to be replaced"""
def render_ansi(simulator, history): return ""
def render_rgb(simulator, history, member=0): return None
