package agents

import (
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kas-agentk/kas/api/agentcfg"
)

// checkServices checks the Services that may be reached through the Kubernetes API.
func checkServices(services []*agentcfg.ProxiedService) *mistake {
	type entry struct{ namespace, name, port string }
	first := make(map[entry]int)
	for i, s := range services {
		at := func(key string) []string { return []string{"kubernetes_api", "services", strconv.Itoa(i), key} }
		if wrong := validation.IsDNS1123Label(s.GetNamespace()); len(wrong) > 0 {
			return &mistake{at("namespace"), fmt.Sprintf("namespace %q is no namespace's name: %s", s.GetNamespace(), wrong[0])}
		}
		if wrong := validation.IsDNS1123Label(s.GetName()); len(wrong) > 0 {
			return &mistake{at("name"), fmt.Sprintf("name %q is no Service's name: %s", s.GetName(), wrong[0])}
		}
		if why := portMistake(s.GetPort()); why != "" {
			return &mistake{at("port"), fmt.Sprintf("port %q is none: %s", s.GetPort(), why)}
		}
		this := entry{s.GetNamespace(), s.GetName(), s.GetPort()}
		if before, ok := first[this]; ok {
			return &mistake{at("name"), fmt.Sprintf("%s in namespace %s is there twice in services, as number %d and number %d: leave one out",
				s.GetName(), s.GetNamespace(), before+1, i+1)}
		}
		first[this] = i
	}
	return nil
}

// portMistake says what is wrong with a Service's port; empty: nothing.
func portMistake(port string) string {
	if port == "" {
		return ""
	}
	if n, err := strconv.Atoi(port); err == nil {
		if wrong := validation.IsValidPortNum(n); len(wrong) > 0 {
			return "a number " + wrong[0]
		}
		if port != strconv.Itoa(n) {
			return fmt.Sprintf("write %d", n)
		}
		return ""
	}
	if wrong := validation.IsDNS1123Label(port); len(wrong) > 0 {
		return "write its number, its name, or nothing for each port of the Service"
	}
	return ""
}
